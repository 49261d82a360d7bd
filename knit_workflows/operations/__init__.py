"""Programs that administrators start in a pod of knit, from where its database is reached."""
