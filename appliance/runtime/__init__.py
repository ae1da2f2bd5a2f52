"""The model runtimes of the appliance: the pinned engine, its worker, and what turns prompts into recorded tokens."""
