"""What HTTP says: paths, hosts, header lists, bearer credentials, forwarded-for. Knows nothing of users or routes."""
