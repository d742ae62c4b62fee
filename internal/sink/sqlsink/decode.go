package sqlsink

import (
	"fmt"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/value"
)

// ValueDecoder reads the JSON values of one column for the dialect's encoder. If the column cannot
// store a value as it is, a rule of the dialect adjusts the value and the ValueDecoder counts that,
// or the ValueDecoder refuses the value. Its errors say why, without the value: Refuse adds the
// rest. One goroutine at a time uses a ValueDecoder.
type ValueDecoder struct {
	// Type is the database's own spelling of the column's type.
	Type string
	// Key says that the column is part of the primary key. No rule adjusts a key.
	Key bool
	// Boolean says that the source's column holds booleans. Numeric columns store 1 and 0.
	Boolean bool
	// JSON says that the source's column holds objects or arrays.
	JSON bool

	table, column string // as the source calls them
	rules         *ValueRules
	adjusted      func(table, column, rule string) // nil: adjustments are not counted
	digits        value.DigitBuffer
}

// NewValueDecoder returns the decoder for a target of a layout. It calls adjusted, if that is not
// nil, for each value that a rule changes.
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

// Refuse returns err as poison that names the column and its type. err must not contain the value.
func (d *ValueDecoder) Refuse(err error) error {
	return fault.Mark(fault.Poison, fmt.Errorf("value of %s.%s (%s): %w", d.table, d.column, d.Type, err))
}

// Adjust counts a value that a rule changes. It returns ErrKeyChanged if the column is part of the
// key. An adjustment without a rule changes nothing.
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

// flawAdjustments are the adjustments that replace flaws.
var flawAdjustments = [...]struct {
	flaw       value.Flaw
	adjustment Adjustment
}{{value.NUL, ReplaceNUL}, {value.Surrogate, ReplaceSurrogate}, {value.UTF8, ReplaceUTF8}}

// Replaced is Adjust for flaws that were replaced in a text.
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

// number reads the text of a number, and returns memory for its digits as well.
func (d *ValueDecoder) number(raw []byte) (buf, text []byte, err error) {
	text, err = value.Number(raw, d.Boolean)
	if err != nil {
		return nil, nil, err
	}
	return d.digits.For(text), text, nil
}

// Int reads an integer of so many bits, 8 to 64.
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

// Uint reads an integer that is not negative, of so many bits, 1 to 64.
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

// Float reads a floating-point number of 32 or 64 bits, adjusted by RoundFloat.
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

// Decimal reads a number of any size. Its digits are valid until the next number is read.
func (d *ValueDecoder) Decimal(raw []byte) (value.Decimal, error) {
	buf, text, err := d.number(raw)
	if err != nil {
		return value.Decimal{}, err
	}
	return value.ParseDecimal(buf, text)
}

// Fixed reads a number with at most whole digits before and scale digits after the decimal point,
// adjusted by RoundDecimal. Its digits are valid until the next number is read.
func (d *ValueDecoder) Fixed(raw []byte, whole, scale int) (value.Decimal, error) {
	n, err := d.Decimal(raw)
	if err != nil {
		return n, err
	}
	return d.Fit(n, whole, scale)
}

// Fit is Fixed for a number that Decimal has read.
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

// JSONFloat reads a number inside JSON text that the database stores as a floating-point number of
// 64 bits, adjusted by RoundJSON.
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

// Digits returns memory for the digits of a number, valid until the next number is read.
func (d *ValueDecoder) Digits(number []byte) []byte { return d.digits.For(number) }

// Instant reads an instant, adjusted by CutSecond to at most so many digits of the second, 0 to 6.
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

// Date reads an instant for a column without a time of day, adjusted by DropTime. The instant
// still has its time of day.
func (d *ValueDecoder) Date(raw []byte) (value.Instant, error) {
	t, err := value.ParseInstantJSON(raw)
	if err == nil && !t.Midnight() {
		err = d.Adjust(DropTime)
	}
	return t, err
}
