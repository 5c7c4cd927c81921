package topology

import (
	"github.com/sealane/sealane/api/v1alpha1"
)

// bridgeStage is what all Bridges come to.
type bridgeStage struct {
	streams  *streamStage
	given    []*v1alpha1.Bridge // by age
	accepted []*bridge
	problems []Problem
	frozen   map[string]string
}

func newBridgeStage(s *streamStage, given []*v1alpha1.Bridge, past history) *bridgeStage {
	st := &bridgeStage{streams: s, given: given, frozen: map[string]string{}}
	for _, o := range given {
		b := newBridge(s, o, false)
		st.problems = append(st.problems, b.report.problems...)
		if b.refused() {
			continue
		}
		st.accepted = append(st.accepted, b)
	}
	return st
}
