    stop text[] DEFAULT NULL,
    choices text[] DEFAULT NULL,
    pattern text DEFAULT NULL,
