"""Programs that a model wrote, run against a data set's tests: one program, one sealed worker, one verdict.

The worker is two processes with the same seal. The *candidate* holds the program and answers calls; the *referee* runs
the tests, sends each call over a pipe and takes plain data back. What a program can say is what its function returns:
it shares no memory with the tests, has no pipe to the controller, and so cannot say that it passed.
"""

PROGRAMS = 255
"""The route of trials, in frames between eval worker and controller; models have the lower ones."""
