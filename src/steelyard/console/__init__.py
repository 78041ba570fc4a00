"""The operator's pages, server-rendered. Reads the books through reports and sells through the same paid flow."""
