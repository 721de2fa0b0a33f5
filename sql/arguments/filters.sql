    top_p float8 DEFAULT NULL,
    min_p float8 DEFAULT NULL,
    typical_p float8 DEFAULT NULL,
    top_n_sigma float8 DEFAULT NULL,
