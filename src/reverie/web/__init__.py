"""`reverie watch`: a dashboard in the browser and a player inside the dream. Reads runs; the core knows none of it."""
