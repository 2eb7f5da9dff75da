"""HTTP syntax: paths, hosts, header fields, bearer credentials, X-Forwarded-For. Independent of users and routes."""
