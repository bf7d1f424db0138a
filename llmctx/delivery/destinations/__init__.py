"""Where rows are stored: one module or package for each kind of `Destination`."""
