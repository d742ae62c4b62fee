package sqlsink

import (
	"fmt"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/value"
)

// ValueDecoder reads the JSON values of one column for the dialect's encoder. If the column
// cannot store a value unchanged, either a rule of the dialect adjusts the value and the
// ValueDecoder counts the adjustment, or the ValueDecoder refuses the value. Its errors state the
// reason without the value; Refuse adds the column and its type. A ValueDecoder must not be used
// concurrently.
type ValueDecoder struct {
	// Type is the database's own spelling of the column's type.
	Type string
	// Key says that the column is part of the primary key. No rule may adjust a key.
	Key bool
	// Boolean says that the source's column holds booleans. A numeric column then stores 1 and 0.
	Boolean bool
	// JSON says that the source's column holds objects or arrays.
	JSON bool

	table, column string // the source's names
	rules         *ValueRules
	adjusted      func(table, column, rule string) // nil if adjustments are not counted
	digits        value.DigitBuffer
}

// NewValueDecoder returns the decoder for the target t of a layout. The decoder calls the function
// adjusted, unless that is nil, for each value that a rule changes.
func NewValueDecoder(l *Layout, t *Target, rules ValueRules, adjusted func(table, column, rule string)) ValueDecoder {
	source := t.Real.Name
	if t.Slot >= 0 {
		source = l.Table.Columns[t.Slot].Name
	}
	return ValueDecoder{
		Type: t.Real.Type, Key: t.Key, Boolean: t.Type == schema.Boolean, JSON: t.Type.IsJSON(),
		table: l.Table.Name, column: source, rules: &rules, adjusted: adjusted,
	}
}

// Refuse returns err with the class poison, and adds the names of the column and its type. The
// text of err must not contain the value.
func (d *ValueDecoder) Refuse(err error) error {
	return fault.Mark(fault.Poison, fmt.Errorf("value of %s.%s (%s): %w", d.table, d.column, d.Type, err))
}

// Adjust counts a value that is changed by the rule for the adjustment a. It returns ErrKeyChanged
// if the column is part of the key. It does nothing if the dialect has no such rule.
func (d *ValueDecoder) Adjust(a Adjustment) error {
	rule := d.rules[a].Name
	switch {
	case rule == "":
		return nil
	case d.Key:
		return ErrKeyChanged
	case d.adjusted != nil:
		d.adjusted(d.table, d.column, rule)
	}
	return nil
}

// flawAdjustments maps each flaw of a text to the adjustment that replaces the flaw.
var flawAdjustments = [...]struct {
	flaw       value.Flaw
	adjustment Adjustment
}{{value.NUL, ReplaceNUL}, {value.Surrogate, ReplaceSurrogate}, {value.UTF8, ReplaceUTF8}}

// Replaced calls Adjust for each kind of flaw that was replaced in a text.
func (d *ValueDecoder) Replaced(flaws value.Flaw) (err error) {
	if flaws == 0 {
		return nil
	}
	for _, f := range flawAdjustments {
		if flaws&f.flaw != 0 && err == nil {
			err = d.Adjust(f.adjustment)
		}
	}
	return err
}

// number returns the text of a number, and a buffer that is large enough for its digits.
func (d *ValueDecoder) number(raw []byte) (buf, text []byte, err error) {
	text, err = value.Number(raw, d.Boolean)
	if err != nil {
		return nil, nil, err
	}
	return d.digits.For(text), text, nil
}

// Int reads a signed integer that must fit into the given number of bits, from 8 to 64.
func (d *ValueDecoder) Int(raw []byte, bits int) (int64, error) {
	buf, text, err := d.number(raw)
	if err != nil {
		return 0, err
	}
	n, err := value.ParseInt(buf, text)
	if high := n >> (bits - 1); err == nil && high != 0 && high != -1 {
		err = value.ErrRange
	}
	return n, err
}

// Uint reads an unsigned integer that must fit into the given number of bits, from 1 to 64.
func (d *ValueDecoder) Uint(raw []byte, bits int) (uint64, error) {
	buf, text, err := d.number(raw)
	if err != nil {
		return 0, err
	}
	n, err := value.ParseUint(buf, text)
	if err == nil && bits < 64 && n>>bits != 0 {
		err = value.ErrRange
	}
	return n, err
}

// Float reads a floating-point number of 32 or 64 bits. A number that such a float cannot
// represent exactly is rounded, by the rule RoundFloat.
func (d *ValueDecoder) Float(raw []byte, bits int) (float64, error) {
	buf, text, err := d.number(raw)
	if err != nil {
		return 0, err
	}
	f, exact, err := value.ParseFloat(buf, text, bits)
	if err == nil && !exact {
		err = d.Adjust(RoundFloat)
	}
	return f, err
}

// Decimal reads a number of any size. The result's digits are valid until the next number is
// read.
func (d *ValueDecoder) Decimal(raw []byte) (value.Decimal, error) {
	buf, text, err := d.number(raw)
	if err != nil {
		return value.Decimal{}, err
	}
	return value.ParseDecimal(buf, text)
}

// Fixed reads a number and rounds it by the rule RoundDecimal. The parameter whole is the maximum
// number of digits before the decimal point, and scale is the number of digits after it. The
// result's digits are valid until the next number is read.
func (d *ValueDecoder) Fixed(raw []byte, whole, scale int) (value.Decimal, error) {
	n, err := d.Decimal(raw)
	if err != nil {
		return n, err
	}
	return d.Fit(n, whole, scale)
}

// Fit is like Fixed, for a number that Decimal has already read.
func (d *ValueDecoder) Fit(n value.Decimal, whole, scale int) (value.Decimal, error) {
	n, exact := n.Round(scale)
	switch {
	case n.Point > whole && len(n.Digits) > 0:
		return n, value.ErrRange
	case !exact:
		return n, d.Adjust(RoundDecimal)
	}
	return n, nil
}

// JSONFloat checks a number inside JSON text that the database stores as a 64-bit floating-point
// number. If such a float cannot represent the number exactly, JSONFloat counts an adjustment by
// the rule RoundJSON.
func (d *ValueDecoder) JSONFloat(number []byte) error {
	_, exact, err := value.ParseFloat(d.Digits(number), number, 64)
	if err != nil {
		return fmt.Errorf("a number in it: %w", err)
	}
	if !exact {
		return d.Adjust(RoundJSON)
	}
	return nil
}

// Digits returns a buffer for the digits of a number, valid until the next number is read.
func (d *ValueDecoder) Digits(number []byte) []byte { return d.digits.For(number) }

// Instant reads an instant, and cuts it to the given number of fractional digits of the second,
// from 0 to 6, by the rule CutSecond.
func (d *ValueDecoder) Instant(raw []byte, digits int) (value.Instant, error) {
	t, err := value.ParseInstantJSON(raw)
	if err != nil {
		return t, err
	}
	if t = t.Truncate(digits); t.Cut {
		err = d.Adjust(CutSecond)
	}
	return t, err
}

// Date reads an instant for a column without a time of day. If the instant is not midnight, Date
// counts an adjustment by the rule DropTime. The returned instant still has its time of day.
func (d *ValueDecoder) Date(raw []byte) (value.Instant, error) {
	t, err := value.ParseInstantJSON(raw)
	if err == nil && !t.Midnight() {
		err = d.Adjust(DropTime)
	}
	return t, err
}
