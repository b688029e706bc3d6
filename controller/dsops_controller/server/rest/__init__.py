"""REST for operators: HTTPS, bearer token, JSON. One router per noun; the rules are in the modules that they call."""
