"""The console: a page for administrators that shows what happens, who may do what, and why. It changes nothing."""
