"""Activities: classes whose constructor takes ports; each call may run twice or die half-way."""
