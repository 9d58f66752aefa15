"""Experience: collection, the replay buffer, its log on disk, and a report on the first rows."""
