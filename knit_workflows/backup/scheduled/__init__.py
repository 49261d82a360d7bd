"""Programs of backups by a schedule: one takes a backup, one sets the schedule or shows it."""
