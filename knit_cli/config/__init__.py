"""What a project and a user have set up: profiles and `knitenv`."""
