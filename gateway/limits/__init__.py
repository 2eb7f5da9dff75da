"""How many requests of one caller are let through on a route: buckets that requests fill and time empties."""
