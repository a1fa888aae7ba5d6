"""What is seen of runs on Prefect's page and told of them: artifacts, pages, bounds, automations."""
