"""The controller's database: the truth about the fleet. SQLite by default, PostgreSQL by URL."""
