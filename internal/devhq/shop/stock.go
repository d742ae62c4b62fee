package shop

import "strconv"

// hotPart returns a random part in stock. Most often, it is one of the few parts that every job
// needs.
func (st *step) hotPart() (cutRow, bool) {
	t := st.table("inventory_part")
	if len(t.rows) == 0 {
		return cutRow{}, false
	}
	return st.read(t, st.skewed(len(t.rows))), true
}

// takeFromStock installs a part. It lowers the quantity in stock, marks a part of a random open
// order as installed, and changes the sums of that order.
func (st *step) takeFromStock() {
	o, ok := st.hotOrder()
	if !ok {
		return
	}
	st.clerk()
	st.actAt(o)
	stock, ok := st.hotPart()
	if !ok {
		return
	}
	n := 1 + st.Int64N(3)
	st.update(stock, num("quantity", stock.int("quantity")-n), num("reserved", max(0, stock.int("reserved")-n)),
		num("movements", stock.int("movements")+1))
	if keys := st.childKeys("part", o.key()); len(keys) > 0 {
		p := st.find("part", pick(st.generator, keys))
		st.update(p, flag("installed", true), st.nowIn("installedDate"))
	}
	if s := o.text("status"); s != statusInvoiced {
		st.update(o, st.totals(o, 0, n*stock.int("retailCents")%10_000)...)
	}
}

// orderParts inserts a purchase order for parts from a random vendor.
func (st *step) orderParts() {
	st.clerk()
	v, _ := st.any("vendor")
	location, _ := st.any("location")
	st.actAt(location)
	var total int64
	lines := []byte{'['}
	for i := range 1 + st.IntN(4) {
		if i > 0 {
			lines = append(lines, ',')
		}
		cents := 100 + st.Int64N(100_000)
		total += cents
		lines = append(lines, `{"name":`...)
		lines = oneOf(partNames...)(st.generator, lines)
		lines = append(lines, `,"cents":`...)
		lines = strconv.AppendInt(lines, cents, 10)
		lines = append(lines, '}')
	}
	n := st.table("purchase_order").next
	st.insert("purchase_order", str("vendorId", v.key()), num("number", int64(n)), raw("status", `"Ordered"`),
		columnValue{"lines", append(lines, ']')}, num("totalCents", total))
	st.update(v, num("openPurchaseOrders", v.int("openPurchaseOrders")+1), columnValue{"ledger", anyInteger(st.generator, nil)})
}

// receiveDelivery marks a purchase order as received, and raises the quantities of several parts
// in stock.
func (st *step) receiveDelivery() {
	p, ok := st.any("purchase_order")
	if !ok || p.text("status") == "Received" {
		return
	}
	st.clerk()
	st.update(p, raw("status", `"Received"`), st.nowIn("receivedDate"))
	for range 3 + st.IntN(6) {
		stock, _ := st.hotPart()
		st.update(stock, num("quantity", stock.int("quantity")+5+st.Int64N(40)), num("movements", stock.int("movements")+1))
	}
	if v, ok := st.lookup("vendor", p.text("vendorId")); ok {
		st.update(v, num("openPurchaseOrders", v.int("openPurchaseOrders")-1))
	}
}

// recount deletes a row of the stock, and inserts it again with the same key and a new quantity.
func (st *step) recount() {
	t := st.table("inventory_part")
	if len(t.rows) == 0 {
		return
	}
	st.clerk()
	r := st.read(t, st.IntN(len(t.rows)))
	values := []columnValue{num("quantity", st.Int64N(200)), num("reserved", 0), st.nowIn("updatedDate")}
	image, _ := r.rewrite(nil, st.assign(t.latest(), values))
	st.delete(r)
	st.reinsert(t, image)
}
