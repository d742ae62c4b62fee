package shop

import "os"

// CheckpointAfter makes s begin a new generation once its log has that many bytes.
func (s *Shop) CheckpointAfter(bytes int64) { s.checkpointAfter = bytes }

// Sync makes s call sync to make its log durable.
func (s *Shop) Sync(sync func(*os.File) error) { s.store.sync = sync }
