"""The web application of `reverie watch`: a dashboard of runs and a player inside the dream. It only reads runs."""
