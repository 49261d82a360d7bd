"""An After hook that posts a message to a chat when a Run fails."""
