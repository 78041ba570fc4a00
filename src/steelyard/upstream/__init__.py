"""Where a model is served: one Protocol, one file per engine or vendor, the connection pool. Knows no price."""
