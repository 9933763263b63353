for (const section of document.querySelectorAll("section.images")) {
  const body = section.querySelector("tbody"), rows = [...body.rows];
  const words = section.querySelector("input"), status = section.querySelector("select");
  const shown = section.querySelector("output");
  section.querySelector(".filters").hidden = false;
  const filter = () => {
    const wanted = words.value.toLowerCase();
    let count = 0;
    for (const row of rows) {
      row.hidden = (status.value && row.dataset.status !== status.value)
        || !row.textContent.toLowerCase().includes(wanted);
      count += !row.hidden;
    }
    shown.textContent = `${count.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
  };
  words.addEventListener("input", filter);
  status.addEventListener("input", filter);
  filter();
  section.querySelectorAll("th").forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      section.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = row => row.cells[column].dataset.key ?? row.cells[column].textContent;
      const compare = head.classList.contains("n")
        ? (a, b) => Number(key(a)) - Number(key(b)) : (a, b) => key(a).localeCompare(key(b));
      rows.sort((a, b) => down ? compare(b, a) : compare(a, b));
      body.append(...rows);
    });
  });
}
