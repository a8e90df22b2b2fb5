"""The pipelines as Prefect flows, and the sessionflow command."""
