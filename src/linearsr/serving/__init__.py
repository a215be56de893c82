"""LinearSR over HTTP: `api` makes the application, `dispatcher` hands jobs to workers, `jobs` stores them."""
