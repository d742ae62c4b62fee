package pipeline

// Used returns how many bytes are in flight, reserved ones included.
func (b *Budget) Used() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}
