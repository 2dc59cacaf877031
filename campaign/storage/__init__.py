"""Storage: the documents of a campaign on SQLite or MongoDB, behind `campaign.store`."""
