"""A method and cutouts become a `Run`: the loop, its schedules and checkpoints, pretraining and fine-tuning."""
