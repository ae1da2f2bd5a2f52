"""Running a job behind a wall: the same run, in a container or a virtual machine, with the lab left outside."""
