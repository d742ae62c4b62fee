package shop

// hotOrder returns a random open order. Most often, it is one of the newest few, which change many
// times per second.
func (st *step) hotOrder() (cutRow, bool) {
	open := st.m.open
	if len(open) == 0 {
		return cutRow{}, false
	}
	return st.find(orderTable, open[len(open)-1-st.skewed(len(open))]), true
}

// arrive creates an order: a customer arrives, with or without an appointment.
func (st *step) arrive() {
	if len(st.m.open) > 20+st.m.customers/8 {
		return
	}
	writer := st.clerk()
	customer, location, vehicle, appointment := st.visitor()
	if vehicle == "" {
		vehicle = st.newVehicle(customer)
		customer = st.find("customer", customer.key())
	}
	st.actAt(location)
	n := location.int("nextOrderNumber")
	values := []columnValue{
		num("number", n), str("customerId", customer.key()), str("vehicleId", vehicle), str("serviceWriterId", writer),
		raw("status", `"`+statusEstimate+`"`),
		{"taxRate", location.raw(location.layout.slot("taxRate"))},
	}
	if appointment != nil {
		values = append(values, str("appointmentId", appointment.key()))
	}
	order := st.insert(orderTable, values...)
	if appointment != nil {
		st.update(*appointment, str("orderId", order), raw("status", `"Arrived"`))
	}
	st.update(location, num("nextOrderNumber", n+1), num("openOrders", location.int("openOrders")+1), st.nowIn("lastActivityDate"))
	st.update(customer, num("orderCount", customer.int("orderCount")+1), st.nowIn("lastVisitDate"))
}

// visitor returns a customer, the location, and one of the customer's vehicles. The vehicle is ""
// if the customer has none. If visitor picks an appointment that has no order yet, it also returns
// the appointment.
func (st *step) visitor() (customer, location cutRow, vehicle string, appointment *cutRow) {
	if a, ok := st.any("appointment"); ok && a.text("orderId") == "" && st.percent(70) {
		if c, ok := st.lookup("customer", a.text("customerId")); ok {
			return c, st.locationOf(a), a.text("vehicleId"), &a
		}
	}
	customer, location = st.someCustomer()
	if keys := st.childKeys("vehicle", customer.key()); len(keys) > 0 {
		vehicle = pick(st.generator, keys)
	}
	return customer, location, vehicle, nil
}

// advanceOrder does the next piece of work on a random open order.
func (st *step) advanceOrder() {
	o, ok := st.hotOrder()
	if !ok {
		return
	}
	st.clerk()
	st.actAt(o)
	switch o.text("status") {
	case statusEstimate:
		switch {
		case o.int("serviceCount") == 0 || st.percent(40):
			st.addService(o)
		case st.percent(20):
			st.decline(o)
		default:
			st.approve(o)
		}
	case statusApproved:
		st.start(o)
	case statusInvoiced:
		st.pay(o)
	default:
		if st.percent(30) {
			st.invoice(o)
		} else {
			st.labour(o)
		}
	}
}

// totals returns the new values of an order's sums after labour and parts were added. The amounts
// of labour and parts are in cents.
func (st *step) totals(o cutRow, laborCents, partsCents int64) []columnValue {
	labor, parts := o.int("laborCents")+laborCents, o.int("partsCents")+partsCents
	subtotal := labor + parts + o.int("feesCents") - o.int("discountCents")
	tax := subtotal * 8 / 100
	total := subtotal + tax
	return []columnValue{
		num("laborCents", labor), num("partsCents", parts), num("subtotalCents", subtotal), num("taxCents", tax),
		num("totalCents", total), num("remainingCents", total-o.int("paidCents")), num("costCents", labor/2+parts*2/3),
	}
}

// addService adds a service to an estimate, with labour and parts for the service.
func (st *step) addService(o cutRow) {
	service := st.insert("service", str("orderId", o.key()))
	var laborCents, partsCents, hours int64
	labors, parts := 1+st.IntN(2), st.IntN(4)
	for range labors {
		h := 25 * (1 + st.Int64N(16))
		rate := 5_000 + 500*st.Int64N(20)
		laborCents += h * rate / 100
		hours += h
		st.insert("labor", str("orderId", o.key()), str("serviceId", service), hundredths("hours", h),
			num("rateCents", rate), num("totalCents", h*rate/100))
	}
	for range parts {
		partsCents += st.addPart(o, service)
	}
	s := st.find("service", service)
	st.update(s, num("laborCents", laborCents), num("partsCents", partsCents), num("totalCents", laborCents+partsCents))
	st.update(o, append(st.totals(o, laborCents, partsCents),
		num("serviceCount", o.int("serviceCount")+1), num("laborCount", o.int("laborCount")+int64(labors)),
		num("partCount", o.int("partCount")+int64(parts)),
		hundredths("laborHours", o.hundredths("laborHours")+hours))...)
}

// addPart adds a part to an order, reserves it in stock, and returns the price of the part in
// cents.
func (st *step) addPart(o cutRow, service string) int64 {
	values := []columnValue{str("orderId", o.key()), str("serviceId", service)}
	quantity, cost := 1+st.Int64N(8), 100+st.Int64N(20_000)
	if stock, ok := st.hotPart(); ok && stock.text("locationId") == st.location && stock.text("id") != "" {
		values = append(values, str("inventoryPartId", stock.text("id")), raw("source", `"Inventory"`))
		cost = stock.int("costCents")
		st.update(stock, num("reserved", stock.int("reserved")+quantity), num("movements", stock.int("movements")+1))
	}
	total := cost * 3 / 2 * quantity
	st.insert("part", append(values, num("quantity", quantity), num("costCents", cost), num("retailCents", cost*3/2),
		num("totalCents", total))...)
	return total
}

func (st *step) approve(o cutRow) {
	for _, key := range st.childKeys("service", o.key()) {
		st.update(st.find("service", key), flag("authorized", true), st.nowIn("authorizedDate"))
	}
	st.update(o, raw("status", `"`+statusApproved+`"`), flag("authorized", true), st.nowIn("authorizedDate"),
		num("messageCount", o.int("messageCount")+1))
	st.send(o.text("customerId"), o.key(), "Queued")
}

// decline deletes an estimate with all rows that belong to it.
func (st *step) decline(o cutRow) {
	location := st.locationOf(o)
	st.removeOrder(o.key())
	st.update(location, num("openOrders", location.int("openOrders")-1))
}

func (st *step) start(o cutRow) {
	technician, _ := st.any("user")
	st.update(o, raw("status", `"`+statusProgress+`"`), str("assignedTechnicianId", technician.key()), st.nowIn("startedDate"))
	st.clockIn(o, technician.key())
}

// clockIn inserts a time entry that has no end. The id of the entry is its number within the order.
func (st *step) clockIn(o cutRow, technician string) {
	id := int64(1 + len(st.childKeys("time_entry", o.key())))
	st.insert("time_entry", str("orderId", o.key()), num("id", id), str("userId", technician))
}

// labour does part of the work on an order. It completes a labour line, books time, or both.
func (st *step) labour(o cutRow) {
	done := o.hundredths("progress")
	values := []columnValue{hundredths("progress", min(done+5+st.Int64N(20), 100))}
	if keys := st.childKeys("labor", o.key()); len(keys) > 0 {
		l := st.find("labor", pick(st.generator, keys))
		if l.text("completed") == "false" {
			st.update(l, flag("completed", true), st.nowIn("completedDate"), optional("technicianId", o.text("assignedTechnicianId")))
		} else {
			st.edit(l, 2)
		}
	}
	if keys := st.childKeys("time_entry", o.key()); len(keys) > 0 {
		e := st.find("time_entry", pick(st.generator, keys))
		if e.text("clockOutDate") == "" {
			st.update(e, st.nowIn("clockOutDate"), hundredths("hours", st.Int64N(400)))
		} else if len(keys) < 20 {
			st.clockIn(o, e.text("userId"))
		}
	}
	st.update(o, values...)
}

func (st *step) invoice(o cutRow) {
	st.update(o, append(st.totals(o, 0, 0), raw("status", `"`+statusInvoiced+`"`), flag("invoiced", true), flag("readyForPickup", true),
		st.nowIn("completedDate"), st.nowIn("invoicedDate"))...)
	customer := st.find("customer", o.text("customerId"))
	st.update(customer, num("balanceCents", customer.int("balanceCents")+o.int("remainingCents")))
	st.send(customer.key(), o.key(), "Sent")
}

// pay pays part of an order or the whole order. A fully paid order becomes closed.
func (st *step) pay(o cutRow) {
	rest := o.int("remainingCents")
	amount := rest
	if rest > 100 && st.percent(40) {
		amount = rest/2 + 1
	}
	customer := st.find("customer", o.text("customerId"))
	location := st.locationOf(o)
	st.insert("payment", str("orderId", o.key()), str("customerId", customer.key()), num("amountCents", amount),
		hundredths("amount", amount), raw("status", `"Succeeded"`))
	values := []columnValue{num("paidCents", o.int("paidCents")+amount), num("remainingCents", rest-amount)}
	open := location.int("openOrders")
	if amount == rest {
		values = append(values, raw("status", `"`+statusPaid+`"`), flag("paid", true), st.nowIn("paidDate"))
		open--
	}
	st.update(o, values...)
	st.update(customer, num("balanceCents", customer.int("balanceCents")-amount),
		num("lifetimeCents", customer.int("lifetimeCents")+amount))
	st.update(location, num("openOrders", open), num("revenueCents", location.int("revenueCents")+amount),
		st.nowIn("lastActivityDate"))
}
