"""What the charts make of the first of their `ci` values, for a reviewer's eye."""
