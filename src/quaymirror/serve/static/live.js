// The page works without this: it is reloaded every five seconds then.
const run = document.getElementById("run");
const events = new EventSource(run.dataset.events);
events.onmessage = (event) => { run.innerHTML = event.data; };
