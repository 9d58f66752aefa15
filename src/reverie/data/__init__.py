"""Experience: the replay buffer and its log on disk, collecting it, and a report on the first of it."""
