"""What people do with checkpoints: `trainkit checkpoint ls | verify | show | export | import`."""
