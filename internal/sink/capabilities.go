package sink

// Capabilities has the optional interfaces that a sink may implement. A field is nil if the sink
// does not implement the interface.
type Capabilities struct {
	Checkpointer Checkpointer
	Recorder     Recorder
	Identifier   Identifier
	FilterReader FilterReader
	Migrator     Migrator
	Adopter      Adopter
	Inspector    Inspector
	Reader       Reader
	Pacer        Pacer
}

// CapabilitiesOf returns the capabilities of the sink s. If s is an *Opened, it returns the
// capabilities that s already holds.
func CapabilitiesOf(s any) (c Capabilities) {
	if o, ok := s.(*Opened); ok {
		return o.Capabilities
	}
	c.Checkpointer, _ = s.(Checkpointer)
	c.Recorder, _ = s.(Recorder)
	c.Identifier, _ = s.(Identifier)
	c.FilterReader, _ = s.(FilterReader)
	c.Migrator, _ = s.(Migrator)
	c.Adopter, _ = s.(Adopter)
	c.Inspector, _ = s.(Inspector)
	c.Reader, _ = s.(Reader)
	c.Pacer, _ = s.(Pacer)
	return c
}

// Opened is an open sink with its capabilities.
type Opened struct {
	Sink
	Capabilities
}

// NewOpened returns s with the capabilities that it implements.
func NewOpened(s Sink) *Opened { return &Opened{Sink: s, Capabilities: CapabilitiesOf(s)} }
