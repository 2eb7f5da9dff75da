"""The console: a page for administrators that shows the traffic, the policy and explanations of decisions. It changes
nothing."""
