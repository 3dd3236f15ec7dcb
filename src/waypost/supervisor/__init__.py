"""`waypost up`: the processes of one deployment, their start, restart and end, and one metrics page for all of them."""
