"""Exports of the policy to other proxies."""
