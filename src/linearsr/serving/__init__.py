"""LinearSR over HTTP: `api` makes the application, `dispatcher` hands jobs to workers, `jobs` remembers them."""
