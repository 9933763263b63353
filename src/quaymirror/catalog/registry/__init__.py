"""Any registry as a catalog: its listing of repositories and tags (OCI distribution-spec, "Content Discovery")."""
