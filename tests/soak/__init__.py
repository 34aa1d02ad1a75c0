"""Many calls with ever new credentials: nothing grows that has no end."""
