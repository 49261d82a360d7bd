"""What flows through the API: uploads, downloads and logs."""
