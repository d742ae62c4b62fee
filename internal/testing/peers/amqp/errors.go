package amqp

// Error conditions of the specification that this package sends.
const (
	DecodeError           Symbol = "amqp:decode-error"
	NotAllowed            Symbol = "amqp:not-allowed"
	NotImplemented        Symbol = "amqp:not-implemented"
	InvalidField          Symbol = "amqp:invalid-field"
	FramingError          Symbol = "amqp:connection:framing-error"
	WindowViolation       Symbol = "amqp:session:window-violation"
	HandleInUse           Symbol = "amqp:session:handle-in-use"
	UnattachedHandle      Symbol = "amqp:session:unattached-handle"
	TransferLimitExceeded Symbol = "amqp:link:transfer-limit-exceeded"
	MessageSizeExceeded   Symbol = "amqp:link:message-size-exceeded"
)

// Error is an error that one side sends to the other.
type Error struct {
	Condition   Symbol
	Description string
}

// Error returns the condition and its description.
func (e *Error) Error() string { return string(e.Condition) + ": " + e.Description }

// value returns the error as an AMQP value, or nil if e is nil.
func (e *Error) value() any {
	if e == nil {
		return nil
	}
	return Described{Descriptor: uint64(0x1d), Value: List{e.Condition, e.Description}}
}
