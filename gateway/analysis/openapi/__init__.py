"""Draft routes from an OpenAPI document, and compare a policy with one."""
