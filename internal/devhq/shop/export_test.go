package shop

// SaveAfter sets the number of changes after which the shop writes its snapshot file.
func (s *Shop) SaveAfter(changes int) { s.saveAfter = changes }
