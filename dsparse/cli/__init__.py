"""The `dsparse` command."""
