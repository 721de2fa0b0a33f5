    xtc_probability float8 DEFAULT NULL,
    xtc_threshold float8 DEFAULT NULL,
    seed bigint DEFAULT NULL,
