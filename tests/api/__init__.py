"""The Web API, through the real app; doors and the store stand behind their ports."""
