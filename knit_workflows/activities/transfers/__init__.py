"""Activities of transfers: uploads, downloads, and the volumes that wait for them."""
