"""The same policy for other proxies to enforce. Pure: settings and policy in, a document out."""
